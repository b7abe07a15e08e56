"""Fits by optimizers of torch: settings, the loss along intervals, the loop."""
