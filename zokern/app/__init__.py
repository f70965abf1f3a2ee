"""The `zokern` command and what it is made of; the library imports nothing from here.

options, fields, defaults   what a run is asked for, and what it takes where nothing is said
methods                     one object a training method
tasks, models, tuning       data, classifiers, which parameters are trained
parameters                  how many that would be, by way of tuning
training                    one run, resumable
compare                     many runs at equal forward passes
commands, cli               the command line
"""
