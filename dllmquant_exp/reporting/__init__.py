"""From result files to statistics and tables. Reads files only; imports no model code."""
