/* Whose turn it is in the driver.
 *
 * A change of a GPU holds that GPU's turn from begin to end, the time that it takes included: two changes of one GPU follow
 * one another, those of two GPUs run side by side. With `simgpu parallel off` every call holds the one turn of the whole
 * driver instead. A turn is a lock on one byte of the state file, let go by the kernel when its holder dies; the state itself
 * stays open to everybody meanwhile, so that the node can be looked at and steered while a call is slow.
 */
#ifndef SIMGPU_TURNS_H
#define SIMGPU_TURNS_H

#include "state.h"

enum { NO_TURN = -1, TURN_OF_DRIVER = MAX_GPUS };

/* `place` is the index of a GPU or TURN_OF_DRIVER. Waits, and lets go of the state's lock meanwhile; the state may be another
 * one, or none, afterwards. */
int take_turn(unsigned int place);
void leave_turn(int turn);

#endif
