"""What the notebooks' Notices say, as checks of what their cells computed.

notebook_03.py belongs to notebook 03. It has one function for each of its sections that says
"Notice": the section's heading in small letters, with underscores. Its arguments are names of the
notebook as they are after the section's cell; `shown` is what the cell's last line shows, and
`printed` what it prints. It asserts what the Notice says, for whatever seed and machine.
tests/test_notices.py runs them all.
"""
