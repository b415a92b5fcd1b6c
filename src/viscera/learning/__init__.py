"""Learning: sampling, augmentation, losses and the training loop; pseudo-labels and studies."""
