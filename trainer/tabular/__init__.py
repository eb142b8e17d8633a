"""Trains any regressor or classifier of scikit-learn on any table."""
