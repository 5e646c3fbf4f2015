"""Everything with an equation or a message in it: the package under the experiment scripts.

Each room imports only from those above it:

    errors  seeding  paths  vision   what everything uses
    parallel                     processes, communicators, messages
    models  data                 networks in one flat buffer; data sets
    evaluate                     loss, accuracy, batch-norm statistics
    optim                        weight optimizers: SGD, SAM, line search
    ecosphere                    EOA between two rounds: election, exchange, rates, species
    coupling                     weights coupled now and then: elastic averaging, local SGD, swarms
    training                     a run of a script: options, loop, record
    search                       hyper-parameter search
"""
