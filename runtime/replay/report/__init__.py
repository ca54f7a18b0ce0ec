"""One HTML file that tells what replays found: a verdict, linked timelines, tables; needs no network."""
