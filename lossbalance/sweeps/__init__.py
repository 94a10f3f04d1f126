"""From a folder of runs to an answer: a table, pictures, a page, and one sentence that says what to use."""
