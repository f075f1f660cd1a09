"""What a reader of data hands on: one table, and what is known of it beside the table."""

from dataclasses import dataclass

import pandas as pd


@dataclass
class Draft:
    """Data as they were found.

    Attributes:
        table: text, label, split ("train" also where no split was given), then the other columns
            of the source in its order, under names of their own. A row each text.
        origin: what served the data, for people.
        test_name: what the texts of split test are, for people; None of a file or folder, where
            it depends on whether any row of a given split test can be used.
        carved: how splits are carved from train, as the end of a sentence.
        notes: one sentence for each thing that was done to the data.
        groups: one for each row; rows of one group are carved into the same split, and "" is a
            text on its own, as all are without groups.
        text_column: the column of a file that holds the texts; None of what is no file.
        multilabel: a text may have several labels, or none; each cell of the column label is what
            `evaluation.tables.spell_set` makes of them.
    """

    table: pd.DataFrame
    origin: str
    test_name: str | None
    carved: str
    notes: list[str]
    groups: list[str] | None = None
    text_column: str | None = None
    multilabel: bool = False
