"""Text in images: where it is (detection), and what it says (recognition)."""
