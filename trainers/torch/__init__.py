"""The PyTorch trainer. Importing it does not import torch; its functions do."""
