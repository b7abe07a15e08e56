"""Ready fits of neural ODEs to stiff problems, as the command line runs them."""
