"""Two readings of the paper's words where the audit still looks for them."""

GENERATION = ("Hum.", "GSM8K")
COMPARABLE = 0.05  # "comparable to full precision": at most 5 points below it
