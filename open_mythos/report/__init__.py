"""Records to pictures and pages: figures with matplotlib, and one HTML file that opens offline."""
