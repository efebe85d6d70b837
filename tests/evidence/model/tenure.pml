/* Who entered through the line may come again without it, for a while: exclusion, and wake-ups, under x86-TSO.
 *
 * The same words and steps as in mpbakery/_protocol; a store goes into the buffer of its process, and becomes visible
 * at any time later, in order. The doorway is not in here: who comes gets the next place in the line in one step, with
 * a fence. That two cannot both be at its head is what the explorer shows of the real code.
 *
 * With three processes it goes further than the explorer: every execution, not some at random.
 *
 * N processes acquire and release ROUNDS times each. Whether the tenure is over is decided at random; so is whether a
 * waiter goes on looking, parks, or gives up. At most KILLS of them are killed, at any step. Without a kill nobody wakes
 * up by itself: a wake-up that is lost ends in a state in which somebody sleeps for ever (spin: "invalid end state").
 *
 * Each of the macros in test_model.py takes one thing away.
 */
#ifndef N
#define N 2
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef KILLS
#define KILLS 0
#endif

#define CLOSED 8     /* the bit in OWNER that says that its slot cannot come again */
#define NOBODY N     /* where OWNER points in the beginning */
#define INDEX(o) ((o) & 7)

#define OWNER 0
#define ATTENTION 1
#define PLACE 2      /* of the process that stores: 0 */
#define HELD 3       /* likewise */
#define PARK 4       /* and those behind it, one for each process */

byte owner = NOBODY;
bit attention;
byte place[N];       /* in line: 1 is the head */
byte held[N + 1];    /* since when: another value each time */
bit park[N];
bit asleep[N];       /* in a futex call */
bit dead[N + 1], inside[N];
byte in, kills;

chan buffer[N] = [6] of { byte, byte };

#define store(word, value) buffer[i]!word,value
#define fence() empty(buffer[i])
#define gone(k) (dead[k] && empty(buffer[k]))
#define in_line(k) (place[k] != 0)
#define before(k) (place[k] != 0 && place[k] < place[i])

/* k leaves the line, and the others keep their order. */
inline vacate(k) {
  g = 0;
  do
  :: g < N -> if :: place[g] > place[k] -> place[g]-- :: else fi; g++
  :: else -> break
  od;
  place[k] = 0; g = 0
}

/* Sleep until woken; with the dead, until the end of a nap at the latest. */
inline sleep() {
  if
  :: atomic { fence() && park[i] -> asleep[i] = 1 };
     atomic { (!asleep[i] || kills > 0) -> asleep[i] = 0 }
  :: fence() && !park[i]
  fi
}

/* What a process has stored becomes visible, one by one. */
proctype memory(byte i) {
  byte word, value, g;
end:
  do
  :: d_step { buffer[i]?word,value ->
       if
       :: word == OWNER -> owner = value
       :: word == ATTENTION -> attention = value
       :: word == HELD -> held[i] = value
       :: word >= PARK -> park[word - PARK] = value
       :: word == PLACE ->
          if :: in_line(i) -> vacate(i) :: else fi
       fi;
       word = 0; value = 0 }
  od
}

proctype killer() {
end:
  do
  :: atomic { kills < KILLS ->
       if
       :: !dead[0] -> dead[0] = 1; in = in - inside[0]; inside[0] = 0
       :: !dead[1] -> dead[1] = 1; in = in - inside[1]; inside[1] = 0
       fi;
       kills++ }
  od
}

/* Wake the head of the line, if it is parked. */
inline wake() {
  d_step {
    g = 0;
    do
    :: g < N && place[g] != 1 -> g++
    :: else -> break
    od
  }
  if
  :: g < N && park[g] -> store(PARK + g, 0); fence(); asleep[g] = 0
  :: else
  fi;
  g = 0
}

/* The lock became free: is there somebody to wake? */
inline look_who_waits() {
  if
  :: attention ->
     store(ATTENTION, 0);
#ifndef NO_FENCE_ATTENDING
     fence();
#endif
     wake()
  :: else
  fi
}

/* Whoever is at the head may be asleep, and must hear of the next release, or has missed one. */
inline wake_if_free() {
  store(ATTENTION, 1);
#ifndef NO_FENCE_BEFORE_LOOKING
  fence();
#endif
  x = INDEX(owner);
  if
  :: held[x] == 0 -> look_who_waits()
  :: else
  fi
}

inline leave_the_line() {
  store(PLACE, 0);
#ifndef NO_WAKE_GIVING_UP
  wake_if_free()
#endif
}

proctype P(byte i) provided (!dead[i]) {
  byte x, v, g, n, stamp;
  bit tenure;
  do
  :: n < ROUNDS ->
     n++;
     stamp = 1 + (stamp % 2);
     if
     :: tenure ->                                      /* come again */
        store(HELD, stamp);
#ifndef NO_FENCE_COMING_AGAIN
        fence();
#endif
        if
#ifdef CLOSED_IGNORED
        :: INDEX(owner) == i -> goto critical
        :: else ->
#else
        :: owner == i -> goto critical
        :: else ->
#endif
           store(HELD, 0)
        fi
     :: true                                           /* the tenure is over, or there was none */
     fi;
     tenure = 0;
     atomic { fence(); g = 0; x = 0;
       do :: g < N -> if :: in_line(g) -> x++ :: else fi; g++ :: else -> break od;
       place[i] = x + 1; g = 0; x = 0 }
#ifndef NO_WAKE_COMING
     wake_if_free();
#endif
wait:
     if
     :: place[i] != 1 ->
        atomic { x = 0; do :: x < N && place[x] != place[i] - 1 -> x++ :: else -> break od }
        if
        :: x == N                                      /* has moved meanwhile */
        :: x < N && gone(x) ->                         /* reaped, under the claim lock */
           d_step { if :: before(x) -> vacate(x) :: else fi }
        :: x < N                                       /* look again */
        :: x < N -> leave_the_line(); goto next        /* gives up */
        :: x < N ->                                    /* parks, until the place ahead changes */
           store(PARK + i, 1);
           fence();
#ifndef NO_LAST_LOOK_IN_LINE
           if
           :: before(x) -> sleep()
           :: else
           fi;
#else
           sleep();
#endif
           store(PARK + i, 0)
        fi;
        goto wait
     :: else
     fi;
     /* at the head */
     x = owner;
     v = held[INDEX(x)];
     if
     :: v != 0 && gone(INDEX(x)) -> goto enter         /* from a dead owner; nobody else can come again */
     :: v != 0 -> goto obstacle
     :: v == 0
     fi;
     if
#ifdef NOT_CLOSED
     :: true
#else
     :: x == i || x == NOBODY || x >= CLOSED           /* nobody can come again, or this process only */
     :: else ->
        store(OWNER, x | CLOSED);
#ifndef NO_FENCE_CLOSING
        fence();
#endif
#ifndef NO_LOOK_AFTER_CLOSING
        v = held[INDEX(x)];
        if
        :: v != 0 -> goto obstacle
        :: v == 0
        fi
#endif
#endif
     fi;
     goto enter;
obstacle:
     if
     :: goto wait                                      /* look again */
     :: leave_the_line(); goto next                    /* gives up */
     :: store(PARK + i, 1);                            /* parks, until HELD is not v any more */
#ifndef NO_ATTENTION_PARKING
        store(ATTENTION, 1);
#endif
#ifndef NO_FENCE_PARKING
        fence();
#endif
#ifdef ANOTHER_VALUE
        v = held[INDEX(x)];
#endif
#ifdef NO_LAST_LOOK
        sleep();
#else
        if
        :: held[INDEX(x)] == v -> sleep()
        :: else
        fi;
#endif
        store(PARK + i, 0);
        goto wait
     fi;
enter:
     store(HELD, stamp);
     store(OWNER, i);
     store(PLACE, 0);
#ifndef NO_ATTENTION_ENTERING
     store(ATTENTION, 1);
#endif
     tenure = 1;
critical:
     atomic { assert(in == 0); in++; inside[i] = 1; x = 0; v = 0 }
     atomic { in--; inside[i] = 0 }
     store(HELD, 0);
#ifndef NO_FENCE_RELEASING
     fence();
#endif
#ifndef NO_WAKE_RELEASING
     look_who_waits();
#endif
next:
     x = 0; v = 0
  :: else -> break
  od
}

init {
  atomic {
    byte k = 0;
    do :: k < N -> run memory(k); run P(k); k++ :: else -> break od;
    if :: KILLS > 0 -> run killer() :: else fi
  }
}
