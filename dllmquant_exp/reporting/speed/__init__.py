"""Table 4: a sweep's measurements of speed and memory as tables, frames and verdicts on claims."""
