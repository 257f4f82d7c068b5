"""The folder for nnU-Net's environment variable `nnUNet_extTrainer`; needs the extra `nnunet`.

nnU-Net imports the files in it one by one, by their own names, so that they import nothing from each other.
"""
