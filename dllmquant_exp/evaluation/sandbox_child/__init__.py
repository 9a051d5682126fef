"""The trusted half of the sandbox: a small program of its own, never imported by the package.

It is started with the standard library only (relative imports, no site-packages), and tells a
generated program from what checks it by giving each a process:

    sandbox.py --(program)--> supervisor --fork--> worker:  guards, then the program
               --(checks)-->             --fork--> checker: guards, then the checks
               <--(verdict)--            <-------- "passed" when the checks reached their end

                     checker --(arguments, as plain data)--> worker
                             <--(results, as plain data)----

The worker is forked before the checks are read, so that they are nowhere in its memory; and what
it says can only be a result, which the checks then compare. A program can lie, but only about its
own results.
"""
