"""One master's place taken by another, without a moment in which nobody serves.

::

    outgoing (the old master)                        incoming (the new master, its child process)

    IDLE
      | restart asked for
    WAITING    threshold, or until it is alone
      | handlers of `restarting` are done
    STARTING   execs the command line  --hello-->    BORROWED   has the sockets, and does nothing to them
      |                                <--begun--      | forks its workers, both masters' workers accept
      |                                <--ready--    OFFERED    all are ready; waits for the answer
    HANDED OVER  retires its workers   --totals-->   IN POWER   the sockets, pid files, service manager are its own
      |          closes its consoles   --given up->    | opens its own
      |          `probation`                           |
      |<----------- release --------------------------   asked to end, or to restart
    (ends)                                           ALONE      end of file: the old master has ended

What can go wrong, and who goes on:

* The new one ends, or is late, before it is HANDED OVER to: it is dismissed, the old one has noticed nothing (IDLE).
* The new one dies by a signal or with a code other than 0 while the old one lives and was not released: the old one
  resumes (IDLE), listens, and forks its workers anew.
* The old one dies at any time: the new one is ALONE.

So there are one or two masters, never three, and exactly one of the two is in power. The old one decides: the new one
is in power when it has the answer, or when the old one is gone; a new one that was dismissed never is.

This folder knows processes, sockets and messages. Workers are the supervisor's, which is asked through `outgoing.Owner`
and `incoming.Owner`.
"""
