"""Effect of MoEx on accuracy: training, evaluation, reports."""
