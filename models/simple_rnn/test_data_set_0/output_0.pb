BoutputJB
@?