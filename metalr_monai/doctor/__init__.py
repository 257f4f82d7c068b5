"""What is wrong with a bundle, told by id before anything runs."""
