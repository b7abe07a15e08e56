"""Steps solved by stiffml itself from the rows of a method: replay of recorded steps, and new steps."""
