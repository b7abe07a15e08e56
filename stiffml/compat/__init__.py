"""The interfaces of other libraries on top of stiffml's own."""
