"""What stands in annotation files: masks, records, tables, indexes. Nothing here knows a dataset."""
