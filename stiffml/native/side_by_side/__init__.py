"""Steps of several samples side by side, each with times, sizes and error control of its own."""
