"""What belongs to a sweep as a whole rather than to one cell."""
