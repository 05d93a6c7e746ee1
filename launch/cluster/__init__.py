"""Where the roles of a run stand: placed by Ray, in processes of their own, with what they need there."""
