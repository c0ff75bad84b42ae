"""One module per trained part, the data set reader and the loop they share."""
