"""solve, odeint, ODEBlock and sensitivities, their arguments, and what they return."""
