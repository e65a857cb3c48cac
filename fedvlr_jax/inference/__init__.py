"""What a trained model says of a user: the items to show, and the modalities that count."""
