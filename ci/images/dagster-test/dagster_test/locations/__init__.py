"""Small code locations beside the test project: what is told apart by them, their modules say."""
