"""Models Genesis: what a network learns to undo in pictures without labels, and the cubes it learns from.

Source: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021) 101840.
"""
