"""Everything with an equation or a message in it: the package under the experiment scripts.

Each room imports only from those above it (`tests/unit/test_rooms.py` checks it):

    errors  seeding  paths  commit  vision   ground floor
    parallel                     processes, communicators, messages
    options                      what can be given on a command line, and its checks
    models  data                 networks in one flat buffer; data sets
    evaluate                     loss, accuracy, batch-norm statistics
    optim                        weight optimizers: SGD, SAM, line search
    ecosphere                    EOA between two rounds: election, exchange, rates, species
    coupling                     weights coupled now and then: elastic averaging, local SGD, swarms
    training                     a run of a script: options, loop, record
    search                       hyper-parameter search

Reading order. EOA in one file: EOA-SAM/eoa_simple.py. Then

1. EOA-SAM/EOASAM.py, training/eoa.py: the loop over rounds; the options of an ecosphere, and how its run is put together
2. training/run.py, training/round_ends.py: a run of any method; how a round ends and which weights are evaluated
3. ecosphere/end_of_round.py, exchange.py, rates.py, species/: elect, exchange (`Sendrecv`), move the rates
4. parallel/topology.py, parallel/comm.py, models/flat.py: communicators, messages, a model as one buffer
5. optim/weight_optimizer.py, training/loop.py: one step of a worker, one round
6. coupling/, search/: the other methods
"""
