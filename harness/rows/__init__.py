"""What a row is: its columns, its identities, how it is stored and derived again."""
