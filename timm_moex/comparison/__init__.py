"""Many runs of one recipe, paired by seed: does a method help on these data?"""
