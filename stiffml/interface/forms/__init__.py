"""States of other forms than tensors of real numbers: complex ones, arrays, dictionaries, nested tuples."""
