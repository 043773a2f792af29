def case(case, random, material):
    raise NotImplementedError
