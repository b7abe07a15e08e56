"""What a step of any method is: its equations, the trajectory that steps make, and outputs between them."""
