"""Dense matrices, factorised; one block for each sample where samples do not depend on each other."""
