"""Stories of a node, drawn at random, and a judge who knows the rules by another way than the agent does.

``hardware``, ``tenants``, ``wishes`` and ``weather`` draw the parts of a story; ``story`` plays it; ``oracle`` says what can be
had; ``judge`` watches every effect, and looks at the end.
"""
