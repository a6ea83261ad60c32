"""What commands find out: typed results, their one form as JSON, and the rows that tables and reports are made of."""
