<?php
usleep(10000);
echo getmypid(), "\n";
