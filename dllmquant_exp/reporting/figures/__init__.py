"""Figures 1-6 of the paper; 7 (ablation), 8 (paper and ours), 9 (layer sensitivity) and 10
(outliers) beside them.

catalog.yaml  every figure: its caption, what measures it, what draws it, the rows that it compares
catalog       the same as objects; drawing one, or all that was recorded
recordings    what a probe measured, as files, and which recordings speak for a figure
curves, maps  Figures 1, 2, 6 and Figures 3, 4, 5, 9, from recordings
outliers      Figure 10, from a recording: a picture and a table
scores        Figures 7 and 8, from a sweep's results
style         fonts, colours and files that all of them share

One more figure is a probe, a drawing function and an entry in catalog.yaml.
"""
