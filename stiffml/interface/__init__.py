"""What a caller meets: solve, odeint, ODEBlock, their arguments, and what they return."""
