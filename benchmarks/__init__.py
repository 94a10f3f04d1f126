"""What things cost, each as a ratio to the plain way in the same run."""
