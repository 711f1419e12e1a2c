"""`moorline check`: what is wrong between here and the answer, hop by hop."""
