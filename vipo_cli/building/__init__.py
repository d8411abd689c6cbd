"""New preference data: candidates drawn by models, their scores, and the pairs made of them."""
