"""Networks of every kind. torch enters the house here; what is above the work rooms never sees a tensor."""
