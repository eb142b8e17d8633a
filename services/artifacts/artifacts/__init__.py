"""What an operator does with objects: `./stack artifacts` and `./stack gc`."""
