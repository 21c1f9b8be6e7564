DEMO = "to be written"
