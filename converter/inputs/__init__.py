"""What a model's inputs are taken for, and samples of them before any network is asked."""
