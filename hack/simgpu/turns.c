#include "turns.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The lock belongs to the open file, so each turn opens one of its own: threads wait for one another like processes. */
int take_turn(unsigned int place)
{
    int turn = state_open_again();
    if (turn < 0)
        return NO_TURN;
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)place, .l_len = 1};
    state_unlock();
    while (fcntl(turn, F_OFD_SETLKW, &byte) != 0 && errno == EINTR)
        ;
    state_lock();
    return turn;
}

/* Said, and not left to the closing: a child forked meanwhile has the file open too. */
void leave_turn(int turn)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    if (turn == NO_TURN)
        return;
    fcntl(turn, F_OFD_SETLK, &all);
    close(turn);
}
