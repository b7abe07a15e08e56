"""Steps solved by stiffml itself, from the rows of a method: recorded ones again, or new ones."""
